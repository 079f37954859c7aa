"""Records of grids that vary sizes: of the device model, or of the generator beside one device model."""

from duet.evaluation.comparison import group_runs
from duet.evaluation.record import Answer, Sizes
from duet.training.config import TrainingConfig
from tests.duet.evaluation.records import made_up, made_up_duet, random_ranks

WIDTHS = (16, 32, 64)


def sizes_of(values, generator=0):
    """Sizes of a device model of so many parameters."""
    update = {"factors-r4": {"float32": 1000, "float16": 500, "int8": 250}} if generator else {}
    return Sizes(static=values - 100, dynamic=100, generator=generator, update=update)


def static(width, skill, *, seed=0, values=None):
    """A static model of a width; that of width 32 is the baseline."""
    config = TrainingConfig.model_validate({"model": "static", "seed": seed, "backbone": {"width": width}})
    name = "static" if width == 32 else f"static-d{width}"
    return made_up(
        name, seed, skills={"shared": skill}, config=config, sizes=sizes_of(values or 1000 * width), users=400
    )


def duet(name, width, skill, *, seed=0, generator=5000, luck=(), **options):
    """A generating model of a width; ``luck`` makes other users the lucky ones than those of the other models."""
    config = TrainingConfig.model_validate({"seed": seed, "backbone": {"width": width}, "generator": options})
    skills = {"factors-r4": skill, "shared": 0.5, "stale-5": 0.4 * skill, "mean": 0.6, "swapped": 0.2}
    sizes = sizes_of(1000 * width, generator)
    answers = {name: Answer.of(random_ranks(seed, *luck, skill=value, users=400)) for name, value in skills.items()}
    return made_up_duet(name, seed, skills=skills, config=config, sizes=sizes, users=400, answers=answers)


def size_sweep(*skills, statics=(1.0, 1.5, 2.0), seeds=(0, 1), luck=()):
    """Static models of three widths and generating ones of some of them."""
    runs = [static(width, skill, seed=s) for s in seeds for width, skill in zip(WIDTHS, statics, strict=True)]
    runs += [
        duet(f"duet-d{width}", width, skill, seed=s, luck=luck)
        for s in seeds
        for width, skill in zip(WIDTHS, skills, strict=False)
    ]
    return group_runs(runs)
