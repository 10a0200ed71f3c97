"""Runs `python FILE WORDS`, also with -m MODULE or -c CODE, in a process that need not import torch, timm and Hydra.

A server imports run.py once, which takes seconds, and every process is a fork of it.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["run", "tests.worker"])


class PythonProcess:
    """A started process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, *words, **environment):
        self.words = [str(word) for word in words]
        folder = Path(tempfile.mkdtemp())
        self.streams = folder / "stdout", folder / "stderr"
        for file in self.streams:
            file.touch()
        arguments = (self.words, os.environ | environment, self.streams)
        self.process = processes.Process(target=run_main, args=arguments, daemon=True)
        self.process.start()

    def poll(self):
        return self.process.exitcode

    def printed(self):
        """Returns the standard output so far."""
        return self.streams[0].read_text()

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def communicate(self):
        """Waits for the end and returns the process with its output and status."""
        self.process.join()
        out, err = (file.read_text() for file in self.streams)
        return subprocess.CompletedProcess(self.words, self.process.exitcode, out, err)


def run_python(*words, **environment):
    """Runs `python WORDS` and returns the completed process."""
    return PythonProcess(*words, **environment).communicate()


def run_main(words, environment, streams):
    """Runs the main program in this process, which is a fork."""
    gc.freeze()  # or the collector visits the modules of the server again and again
    for number, file in enumerate(streams, start=1):
        os.dup2(os.open(file, os.O_WRONLY), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored if the tests run in the background
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "-c", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
