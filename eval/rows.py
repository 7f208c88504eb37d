"""The rows of an evaluation: what was scored (sets), with what (metrics), and the scores of images, groups and sets.

All stand in one file of JSON lines, `rows.jsonl`, beside `environment` lines (`koala/harness/records.py`):

- `metric`: `id`, `metric` ("fid:clean"), `label` (as printed: "fid:clean[unverified]"), `level` ("image", "group" or
  "set"), `higher_is_better`, `substitute`, `partial` (true where some
  prompts have no score by its nature), `extractor`, `preparation`, `dtype`, `weights` (file -> sha256), `verified`,
  `settings`, `version` and `feed_version` (of our code). The id is a digest of all that decides a score; rows of
  unlike ids are never compared.
- `set`: `id`, `name`, `path`, `settings` (the fields of `koala.sampling.gallery.SETTINGS`; empty for a plain folder),
  `n`, `content` (a digest of its images), `unreadable` ([{file, reason}]), `duplicates`, `notes`.
- `eval`, level "image": `set`, `file`, `sha256`, `bytes` and `mtime_ns` (by which a second run knows the file again),
  `prompt`, `seed`, `tags` ({column: value}), `expects` (a digest of what a machine
  can check, or null), `scores` ({metric id: x}; empty where only set metrics were asked for).
- `eval`, level "group": `set`, `prompt`, `files`, `sha256` (of each file), `scores`.
- `eval`, level "set": `set`, `content`, `metric` (an id), `value`, `interval` ({low, high, confidence, method} or
  null), `n`, `n_reference`, `reference` ({name, content, path, unreadable,
  unnamed_features: whether it is a file that does not say of which features} or null), `detail`.
- `unavailable`: `set`, `metric` (a name), `reason`, `files` (those missing), `reference` (as above).

`eval` rows carry `environment` and `started_at`. A score that is no number is null, with a reason in `detail`.
"""
