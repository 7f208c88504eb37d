"""Means that weigh the values of a tag alike."""

from eval_rows import image_rows, known, metric_row, set_row

from koala.harness.scores.table import to_frame

TASKS = metric_row("9e9e9e9e9e9e9e9e", "geneval:toy", balanced_over="task")


def test_a_balanced_metric_is_the_mean_of_the_means_of_its_tag():
    about = set_row()
    values = [1.0] * 12 + [0.0] * 6
    rows = image_rows(about, TASKS, values)
    for row in rows:
        row["tags"] = {"task": "easy" if row["scores"][TASKS["id"]] else "hard"}
    (line,) = to_frame(known(TASKS, about, *rows)).to_dict("records")
    assert line["value"] == 0.5
    assert line["interval_method"].startswith("mean of the means of 2 values of task; bootstrap over prompts")


def test_where_an_image_lacks_the_tag_the_mean_is_the_plain_one():
    about = set_row()
    rows = image_rows(about, TASKS, [1.0] * 6 + [0.0] * 2)
    (line,) = to_frame(known(TASKS, about, *rows)).to_dict("records")
    assert line["value"] == 0.75 and line["interval_method"].startswith("bootstrap")
