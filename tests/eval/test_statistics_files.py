import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.maths.gaussian import Gaussian, gaussian
from eval.statistics_files import TOOLS, Statistics, read_statistics, write_statistics
from koala.errors import KoalaError, UnknownName

DIM = 12
FEATURES = torch.randn(40, DIM, generator=torch.Generator().manual_seed(3))
GAUSSIAN = gaussian([FEATURES])
MU, SIGMA = GAUSSIAN.mean.numpy(), GAUSSIAN.covariance.numpy()


def assert_close(found: Gaussian, tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(found.mean.numpy(), MU, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.covariance.numpy(), SIGMA, rtol=0, atol=tolerance)


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


# ---- round trips


@pytest.mark.parametrize("tool", TOOLS)
def test_statistics_come_back_as_they_were(tmp_path, tool):
    path = tmp_path / "new" / f"s{TOOLS[tool][0]}"
    write_statistics(path, GAUSSIAN, tool, {"extractor": "x"})
    found = read_statistics(path)
    assert_close(found.gaussian, 1e-7 if tool == "torch-fidelity" else 0.0)  # whose mean is fp32
    assert found.gaussian.n == (40 if tool == "koala" else None)
    assert found.origin == ({"extractor": "x"} if tool == "koala" else {})


def test_statistics_of_an_unknown_number_of_images_stay_so(tmp_path):
    write_statistics(tmp_path / "s.npz", Gaussian(GAUSSIAN.mean, GAUSSIAN.covariance, None))
    assert read_statistics(tmp_path / "s.npz").gaussian.n is None
    assert read_statistics(tmp_path / "s.npz").origin == {}


def test_a_tool_reads_only_files_of_its_own_name(tmp_path):
    with pytest.raises(KoalaError, match=r"torch-fidelity reads statistics from a file called \*\.pt, not s\.npz"):
        write_statistics(tmp_path / "s.npz", GAUSSIAN, "torch-fidelity")
    with pytest.raises(UnknownName, match="did you mean 'clean-fid'"):
        write_statistics(tmp_path / "s.npz", GAUSSIAN, "cleanfid")


# ---- the tools themselves


@pytest.mark.parametrize("tool", ("koala", "pytorch-fid", "mlperf"))
def test_pytorch_fid_reads_what_we_write(tmp_path, tool):
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    write_statistics(tmp_path / "s.npz", GAUSSIAN, tool)
    mu, sigma = fid_score.compute_statistics_of_path(str(tmp_path / "s.npz"), None, 1, DIM, "cpu")
    np.testing.assert_array_equal(mu, MU)
    np.testing.assert_array_equal(sigma, SIGMA)


def test_we_read_what_pytorch_fid_writes(tmp_path, monkeypatch):
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(fid_score, "InceptionV3", type("Net", (), dict(fid_score.InceptionV3.__dict__)))
    monkeypatch.setattr(fid_score.InceptionV3, "__init__", lambda self, blocks: None)
    monkeypatch.setattr(fid_score.InceptionV3, "to", lambda self, device: self, raising=False)
    monkeypatch.setattr(fid_score, "get_activations", lambda *_: FEATURES.numpy().astype(np.float64))
    fid_score.save_fid_stats([str(tmp_path / "images"), str(tmp_path / "s.npz")], 1, "cpu", 2048)
    assert_close(read_statistics(tmp_path / "s.npz").gaussian, 1e-7)


def test_clean_fid_reads_what_we_write_and_we_what_it_writes(tmp_path, monkeypatch):
    fid = pytest.importorskip("cleanfid.fid")
    features = pytest.importorskip("cleanfid.features")
    for module in (fid, features):
        monkeypatch.setattr(module.os.path, "dirname", lambda _: str(tmp_path))
    monkeypatch.setattr(fid, "build_feature_extractor", lambda *_, **__: None)
    monkeypatch.setattr(fid, "get_folder_features", lambda *_, **__: FEATURES.numpy())
    fid.make_custom_stats("theirs", "unread", verbose=False)
    (theirs,) = (tmp_path / "stats").glob("theirs*na.npz")
    monkeypatch.undo()
    assert_close(read_statistics(theirs).gaussian, 1e-7)

    monkeypatch.setattr(features.os.path, "dirname", lambda _: str(tmp_path))
    monkeypatch.setattr(features, "check_download_url", lambda local_folder, url: f"{local_folder}/{Path(url).name}")
    write_statistics(tmp_path / "stats" / "ours_clean_custom_na.npz", GAUSSIAN, "clean-fid")
    mu, sigma = features.get_reference_statistics("ours", "na", split="custom")
    np.testing.assert_array_equal(mu, MU)
    np.testing.assert_array_equal(sigma, SIGMA)


def test_torch_fidelity_reads_what_we_write_and_we_what_it_writes(tmp_path):
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    utils = pytest.importorskip("torch_fidelity.utils")
    cache = {"cache": True, "cache_root": str(tmp_path), "verbose": False}

    def its_own() -> dict:
        return metric_fid.fid_features_to_statistics(FEATURES)

    written = utils.cache_lookup_one_recompute_on_miss("theirs-stat-fid-2048", its_own, **cache)
    assert_close(read_statistics(tmp_path / "theirs-stat-fid-2048.pt").gaussian, 1e-7)

    def never() -> None:
        raise AssertionError("it did not find our file")

    write_statistics(tmp_path / "ours-stat-fid-2048.pt", GAUSSIAN, "torch-fidelity")
    ours = utils.cache_lookup_one_recompute_on_miss("ours-stat-fid-2048", never, **cache)
    fid = metric_fid.fid_statistics_to_metric(ours, written, verbose=False)["frechet_inception_distance"]
    assert fid == pytest.approx(0, abs=1e-6)


# ---- what is wrong


def swapped(**changes) -> dict:
    return {"mu": MU, "sigma": SIGMA} | changes


@pytest.mark.parametrize(
    "arrays, match",
    [
        ({"mu": MU, "feats": FEATURES.numpy()}, "has no 'sigma'; it holds feats, mu"),
        ({"feats": FEATURES.numpy()}, "has no 'mu'; it holds feats"),
        (swapped(mu=SIGMA), r"'mu' has the shape \(12, 12\)"),
        (swapped(mu=MU[:0]), r"'mu' has the shape \(0,\)"),
        (swapped(sigma=SIGMA[:5]), r"'sigma' has the shape \(5, 12\), which does not fit 'mu' of 12 numbers"),
        (swapped(sigma=SIGMA + np.arange(DIM)), "'sigma' is not symmetric"),
        (swapped(sigma=-SIGMA), "'sigma' has negative variances"),
        (swapped(mu=np.full(DIM, np.nan)), "'mu' holds 12 NaN or infinite numbers"),
        (swapped(sigma=SIGMA + np.diag([np.inf] + [0] * 11)), "'sigma' holds 1 NaN or infinite"),
        (swapped(mu=np.array(["a"] * DIM)), "'mu' holds <U1, not numbers"),
        (swapped(n=np.int64(1)), "'n' should be a number of images, 2 or more, and is 1"),
        (swapped(n=MU), "'n' should be a number of images"),
        (swapped(origin=np.array("[1]")), "'origin' is no JSON object"),
        (swapped(origin=np.array("{")), "'origin' is no JSON object"),
    ],
)
def test_wrong_arrays_are_named_with_their_file(tmp_path, arrays, match):
    path = npz(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(KoalaError, match=match) as caught:
        read_statistics(path)
    assert "wrong.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_a_covariance_in_fp32_is_symmetric_enough(tmp_path):
    uneven = SIGMA.astype(np.float32)
    uneven[0, 1] *= 1 + 1e-6
    found = read_statistics(npz(tmp_path / "s.npz", mu=MU.astype(np.float32), sigma=uneven)).gaussian
    assert torch.equal(found.covariance, found.covariance.T) and found.mean.dtype == torch.float64
    assert_close(found, 1e-6)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/unpickled-by-koala"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("suffix", (".npz", ".pt"))
def test_files_that_are_none_are_one_clear_error_and_nothing_is_unpickled(tmp_path, suffix):
    def buffered(write) -> bytes:
        buffer = io.BytesIO()
        write(buffer)
        return buffer.getvalue()

    whole = buffered(lambda file: np.savez(file, mu=MU, sigma=SIGMA))
    contents = {
        "empty": b"",
        "text": b"404: not found",
        "truncated": whole[: len(whole) // 2],
        "pickle": pickle.dumps({"mu": MU, "evil": Evil()}),
        "pickled array": buffered(lambda file: np.savez(file, mu=np.array([Evil()], dtype=object), sigma=SIGMA)),
        "torch pickle": buffered(lambda file: torch.save({"mu": MU, "sigma": Evil()}, file)),
        "one array": buffered(lambda file: np.save(file, MU)),
    }
    for name, data in contents.items():
        path = tmp_path / (name.replace(" ", "_") + suffix)
        path.write_bytes(data)
        with pytest.raises(KoalaError, match=path.name):
            read_statistics(path)
    for path in (tmp_path / f"nowhere{suffix}", tmp_path):
        with pytest.raises(KoalaError, match="cannot read"):
            read_statistics(path)
    assert not Path("/tmp/unpickled-by-koala").exists()


def test_damaged_bytes_are_an_error_or_other_numbers_never_a_traceback(tmp_path):
    for tool in ("koala", "pytorch-fid", "torch-fidelity"):
        path = tmp_path / f"s{TOOLS[tool][0]}"
        write_statistics(path, GAUSSIAN, tool)
        whole, random = path.read_bytes(), np.random.default_rng(1)
        refused = 0
        for _ in range(60):
            damaged = bytearray(whole)
            for place in random.integers(0, len(whole), 3):
                damaged[place] = random.integers(0, 256)
            path.write_bytes(damaged)
            try:
                assert isinstance(read_statistics(path), Statistics)
            except KoalaError:
                refused += 1
        assert refused


def test_what_torch_fidelity_caches_beside_statistics_is_named(tmp_path):
    torch.save(FEATURES, tmp_path / "features.pt")
    with pytest.raises(KoalaError, match=r"holds a Tensor; torch-fidelity's statistics are called \*-stat-fid-\*\.pt"):
        read_statistics(tmp_path / "features.pt")


def test_our_file_says_in_json_what_made_it(tmp_path):
    origin = {"extractor": "inception", "weights": {"inception": "ab12"}, "content": "cd34"}
    write_statistics(tmp_path / "s.npz", GAUSSIAN, origin=origin)
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert json.loads(str(file["origin"])) == origin and file["n"] == 40
