import signal

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Every annotated function of the three packages checks its arguments, tensor shapes included, while tests run.
# An int is a float there, as it is for mypy.
_CHECKED = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["koala", "bench", "eval"], _CHECKED)

# The first example waits for tables of Unicode; on a busy machine that is no sign of a slow strategy.
settings.register_profile("koala", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("koala")

# A shell starts what runs in the background deaf to Ctrl-C, and the processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
