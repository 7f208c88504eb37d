"""What earlier runs say of a set's images, as long as their files have not changed."""

from eval.sources import ImageSet, Item
from koala.harness.records import Records, Row


def known_images(done: Records, images: ImageSet) -> dict[str, Row]:
    """The newest row of each file that is as it was then: same size, time of change and prompt."""
    newest = {row["file"]: row for row in _rows(done, images, "image")}
    return {
        item.file: row
        for item in images.items
        if (row := newest.get(item.file))
        and row["prompt"] == item.prompt
        and {name: row[name] for name in ("bytes", "mtime_ns")} == file_facts(item)
    }


def known_groups(done: Records, images: ImageSet) -> dict[str, Row]:
    """The newest row of each prompt's images, all of which are as they were then."""
    unchanged = {file: row["sha256"] for file, row in known_images(done, images).items()}
    newest = {row["prompt"]: row for row in _rows(done, images, "group")}
    return {
        prompt: row for prompt, row in newest.items() if [unchanged.get(file) for file in row["files"]] == row["sha256"]
    }


def file_facts(item: Item) -> Row:
    """By what a file is known again without reading it; nulls where there is none."""
    try:
        stat = item.path.stat()
    except OSError:
        return {"bytes": None, "mtime_ns": None}
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _rows(done: Records, images: ImageSet, level: str) -> list[Row]:
    rows = [row for row in done.of_kind("eval").rows if row["level"] == level and row["set"] == images.id]
    return sorted(rows, key=lambda row: row["started_at"])
