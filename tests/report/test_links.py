"""The names of classes on the page: those of the user's files, of the setting, or of the published data set."""

from moppa.report.links import class_names


def config_with(num_classes=2, classes=None, suite="own"):
    return {"task": {"suite": suite, "name": "eurosat", "num_classes": num_classes}, "data": {"classes": classes}}


def test_the_names_of_classes_are_those_of_the_record_else_of_the_setting_else_known():
    assert class_names(config_with(), {"classes": ["a", "b"]}) == ["a", "b"]
    assert class_names(config_with(classes=["c", 1]), {}) == ["c", "1"]
    assert class_names(config_with(), {}) is None
    assert class_names(config_with(num_classes=3), {"classes": ["a", "b"]}) is None
    known = class_names(config_with(num_classes=10, suite="vtab1k"), {})
    assert known is not None
    assert len(known) == 10
