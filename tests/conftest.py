from jaxtyping import install_import_hook

# Every annotated function of the three packages checks its arguments, tensor shapes included, while tests run.
install_import_hook(["koala", "bench", "eval"], "beartype.beartype")
