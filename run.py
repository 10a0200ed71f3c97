"""Runs one cell: python run.py method=moppa task=cifar100 (many: python run.py -m method=moppa,lora task=...)."""

import sys

if __name__ == "__main__":  # before torch is imported: the command line imports this file for a cell to be trained
    from moppa.cli.run import main

    sys.exit(main())

from omegaconf import DictConfig

from moppa.peft.inject import merge
from moppa.record.cell import Cell
from moppa.record.check_values import check_values
from moppa.record.parts import instantiate_parts
from moppa.record.same_images import check_same_images
from moppa.record.write import Outcome, record_summary, save_trained, write_record
from moppa.sweep.resolve import resolve_cell
from moppa.sweep.worker import lease
from moppa.utils.config import sweep_name
from moppa.utils.device import get_device
from moppa.utils.run_settings import apply_run_settings
from moppa.utils.usage import Usage


def run_cell(config: DictConfig) -> Cell:
    """Trains one method on one task with one seed, evaluates it once, and writes the record."""
    run = config.run
    apply_run_settings(run)
    device = get_device(run.device)
    check_values(config)
    cell = resolve_cell(config)  # with hparams=best, its settings are selected here
    parts = instantiate_parts(cell)
    check_same_images(cell, parts.task, parts.source)
    with lease(cell) as is_ours:
        if not is_ours:
            return cell

        # model: the frozen backbone with a fresh head, and the method attached to it
        usage = Usage(device)
        attached = parts.prepared(device)
        model, data = attached.model, attached.data

        # data: images of a checked split, or cached features if only the head is trained
        with usage("data"):
            split_check = data.check()
            inputs = parts.inputs(attached)
            images = inputs.load(data.train_split)
            data.start_reading(data.eval_split)

        # training
        parts.logger.start(name=f"{cell.name} {cell.key}", group=sweep_name(), config=cell.config)
        evaluator = parts.evaluator(inputs)
        on_epoch = evaluator.every(parts.protocol.every, lambda: inputs.load(data.eval_split))
        with usage.training():
            training = parts.train(inputs, images, on_epoch=on_epoch)
        trained_sha256 = save_trained(cell, model)

        # evaluation, once, after the last step
        with usage("data"):
            eval_images = inputs.load(data.eval_split)
        with usage("evaluate"):
            predicted, logits = evaluator.evaluate(
                merge(inputs.model), eval_images.images, title=data.eval_split, keep_logits=run.keep_logits
            )

        # record
        outcome = Outcome(
            predicted=predicted,
            logits=logits,
            names=data.names(data.eval_split) if run.keep_logits else None,
            train=images,
            evaluated=eval_images,
            split_check=split_check,
            lineage=parts.source.lineage,
            preprocess=attached.preprocess,
            training=training,
            trained_sha256=trained_sha256,
            usage=usage,
        )
        record = write_record(cell, model, outcome)
        parts.checkpoint.remove()
        parts.logger.finish(record_summary(record))
        print(f"{cell.name}: {record['correct']} of {record['total']} correct, {cell.record}")
    return cell
