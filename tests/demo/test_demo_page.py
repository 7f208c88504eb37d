"""The demo in a real browser; see tests/bench/test_report_page.py."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("gradio", reason="the demo has an extra of its own; tox -e demo installs it")

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("KOALA_BROWSER") != "required", reason="there is no chromium here"
)
MODELS = "tiny-koala-700m,tiny-sdxl-turbo"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a demo of two small models is served."""
    log = tmp_path_factory.mktemp("demo") / "log"
    command = [sys.executable, "-m", "koala", "demo", "--models", MODELS, "--device", "cpu"]
    with log.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as served:
        said = served.stdout.readline().strip()
        assert said.startswith("http://127.0.0.1:"), log.read_text()
        yield said
        served.terminate()


def test_it_listens_on_this_machine_alone_and_asks_no_network(address):
    page = urllib.request.urlopen(address).read().decode()
    assert "KOALA demo" in page
    assert "fonts.googleapis" not in page


@NEEDS_CHROMIUM
def test_two_models_draw_side_by_side(address):
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "KOALA_BROWSER=required, and there is no chromium: apt-get install chromium"
    asked, complaints = set(), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.add(request.url.split("/")[2]))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#draw", timeout=60_000)
        page.fill("#prompt textarea", "<img src=x onerror='window.hacked = 1'>")
        page.get_by_label("1", exact=True).check()
        page.click("#draw")
        page.wait_for_selector("#right-image img", timeout=120_000)
        assert page.locator("#left-image img").count() == 1
        for side in ("#left-said", "#right-said"):
            said = page.inner_text(side)
            assert " s" in said and "GiB resident" in said and "1 step" in said
        page.fill("#guidance input, #guidance textarea", "much")
        page.click("#draw")
        page.get_by_text("guidance is a number").first.wait_for(timeout=30_000)
        assert not page.evaluate("window.hacked")
        browser.close()
    assert complaints == []
    assert {host for host in asked if not host.startswith("127.0.0.1")} <= {""}


def test_ctrl_c_ends_it(tmp_path):
    command = [sys.executable, "-m", "koala", "demo", "--models", "tiny-koala-700m", "--device", "cpu"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert served.stdout.readline().startswith("http://")
    time.sleep(0.5)
    served.send_signal(2)
    _, complaints = served.communicate(timeout=30)
    assert served.returncode in (0, 130) and "Traceback" not in complaints


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "nobody"], "unknown model 'nobody'"),
        (["--models", "kola-*"], "unknown model 'kola-*'"),
        ([], "no trained model is here"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, arguments, words):
    command = [sys.executable, "-m", "koala", "demo", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and "Traceback" not in done.stderr
