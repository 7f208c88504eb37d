"""How much memory the activations of a run take, and which GPUs it fits."""

from dataclasses import dataclass

from koala.distill.config import Run
from koala.harness.nvml import Nvml
from koala.models.cost import unet_cost
from koala.models.spec import ModelSpec
from koala.models.training_cost import training_bytes


@dataclass(frozen=True)
class Card:
    """A GPU that can be seen here."""

    name: str
    memory_bytes: int


def visible_cards() -> list[Card]:
    """The GPUs that a run would be given here, as the driver knows them; torch is not asked."""
    nvml = Nvml()
    gpus = [nvml.gpu(index) for index in range(nvml.count())]
    return [Card(gpu.name, gpu.memory_bytes) for gpu in gpus]


def activation_bytes(run: Run, student: ModelSpec, teacher: ModelSpec | None, critic: ModelSpec | None) -> int:
    """The most bytes that activations of one forward and backward pass take, about; none of compared features.

    Counted on the meta device, all in the run's precision. What a generator drew stays alive while a critic judges it;
    the critic's pass over fakes and real images is taken for one of its whole U-Net.
    """
    size = run.batch_size

    def learning(spec: ModelSpec, rows: int) -> int:
        return training_bytes(spec, student.resolution, rows, run.precision, run.gradient_checkpointing)

    own = learning(student, size)
    if teacher is None:
        return own
    guided = 2 if critic and run.guidance != 1 else 1
    taught = unet_cost(teacher, student.resolution, guided * size, run.precision).activation_bytes
    if critic is None:
        return own + taught
    judged = 2 * size if run.critic_gan_weight else 0
    return max(own + max(taught, learning(critic, size)), learning(critic, size + judged))


def sharded_bytes(held: int, teacher: int, processes: int) -> int:
    """Bytes a process of what is held, where all but the frozen teacher is sharded over the processes."""
    return teacher + -(-(held - teacher) // processes)


def verdicts(cards: list[Card], held: int, sharded: int, activations: int) -> list[str]:
    """Of each kind of card whether a run fits it, whole or sharded."""
    found = []
    for card in dict.fromkeys(cards):
        whole, parts = (part + activations <= card.memory_bytes for part in (held, sharded))
        answer = "fits" if whole else "fits sharded alone (FSDP)" if parts else "does not fit"
        found.append(f"{card.name}, {card.memory_bytes / 2**30:.3g} GiB: {answer}")
    return found
