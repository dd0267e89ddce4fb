"""What ``accelerate config`` and ``accelerate launch`` ask for: taken over, or refused in one sentence.

By itself ``accelerate launch`` ends with a traceback and status 1 whatever its program says. Where this
package is installed, ``launch.pth`` runs ``end_as_trainers_end`` in it, so that one of these trainers ends as
it would alone: with one sentence and status 2 for a mistake, and a signal is the trainer's.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from engine.user_error import UserError, exits_cleanly

C = TypeVar("C")
WORDS = "TIMBRE_LAUNCH_OPTIONS"
"""Environment variable: the options that the launcher was given."""
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}


def adopt(config: C, args: Sequence[str]) -> C:
    """Fill what the launcher decides into a trainer's ``config.loop``; ``args`` are its own options.

    What the launcher was not told is left to the preset. Raises ``UserError`` where an option contradicts it,
    and for what training cannot do.
    """
    loop: Any = getattr(config, "loop", None)
    if not hasattr(loop, "mixed_precision"):
        return config
    given = {arg.replace("_", "-") for arg in args if arg.startswith("--")}
    wanted = launched_loop()
    for name, value in wanted.items():
        option = f"--loop.{name.replace('_', '-')}"
        if option in given and getattr(loop, name) != value:
            raise UserError(
                f"{option} {getattr(loop, name)} contradicts accelerate, which was told {value}:"
                " leave one of them out"
            )
    return replace(config, loop=replace(loop, **wanted))  # pyright: ignore[reportArgumentType]


def launched_loop() -> dict[str, Any]:
    """Fields of the loop that accelerate was told; empty where nothing was launched by it."""
    env = os.environ
    for variable, what in REFUSED.items():
        if env.get(variable, "").lower() in ("true", "1"):
            raise UserError(
                f"accelerate is configured for {what}, which these trainers cannot use: choose multi-GPU in"
                " accelerate config, or give accelerate launch --multi_gpu"
            )
    if "ACCELERATE_MIXED_PRECISION" not in env:
        return {}
    options, wanted = _launcher_options(), {}
    precision, backend = env["ACCELERATE_MIXED_PRECISION"], env.get("ACCELERATE_DYNAMO_BACKEND", "NO")
    if precision not in ("no", "bf16", "fp16"):
        raise UserError(f"accelerate is told mixed_precision {precision}: choose bf16, fp16 or no")
    # The launcher passes on "no" where nobody said anything.
    if precision != "no" or options.get("mixed_precision"):
        wanted["mixed_precision"] = precision
    if backend.lower() != "no" or options.get("dynamo_backend"):
        wanted["compile"] = backend.lower()
    count = env.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or options.get("gradient_accumulation_steps")
    if count:
        wanted["accumulate"] = int(count)
    return wanted


def launcher() -> Any:
    """The ``accelerate launch`` that started this process, if one did: a ``psutil.Process``."""
    import psutil  # it comes with accelerate, which use without training has not

    try:
        parent = psutil.Process().parent()
        return parent if parent and _options(parent.cmdline()) is not None else None
    except psutil.Error:
        return None


def _launcher_options() -> dict[str, Any]:
    """What the launcher was told in arguments or by a file, which its environment mixes with its defaults."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    above = launcher()
    args = shlex.split(os.environ.get(WORDS, "")) or (_options(above.cmdline()) if above else None)
    if args is None:
        return {}
    options = vars(launch_command_parser().parse_known_args(args)[0])
    if options["config_file"] or (Path(default_config_file).is_file() and not options["cpu"]):
        file = load_config_from_file(options["config_file"])
        stored = {"mixed_precision": file.mixed_precision} | getattr(file, "dynamo_config", {})
        options = stored | {name: value for name, value in options.items() if value is not None}
    return options


def _options(args: Sequence[str]) -> list[str] | None:
    """The options in a launcher's command line; none if it is another program's."""
    for at, arg in enumerate(args[:4]):
        if Path(arg).name in ("accelerate-launch", "accelerate.commands.launch"):
            return list(args[at + 1 :])
        if Path(arg).name == "accelerate" and args[at + 1 : at + 2] == ["launch"]:
            return list(args[at + 2 :])
    return None


def end_as_trainers_end() -> None:
    """Let this process, an ``accelerate launch``, end as a trainer of this package does; others as ever."""
    from accelerate.commands import launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    launch_any = launch.launch_command

    @exits_cleanly
    def launch_ours(options: Any) -> None:
        os.environ[WORDS] = shlex.join(_options(sys.argv) or [])
        launch.simple_launcher = _become
        try:
            launch_any(options)
        except ChildFailedError as failed:
            status = failed.get_first_failure()[1].exitcode
            raise SystemExit(status if status >= 0 else 128 - status) from None
        except (ImportError, ValueError) as mistake:
            raise UserError(str(mistake)) from None

    def launch_command(options: Any) -> None:
        script = Path(options.training_script).resolve()
        (launch_ours if Path(__file__).parents[1] in script.parents else launch_any)(options)

    launch.launch_command = launch_command


def _become(options: Any) -> None:
    """Let the trainer take this process's place, with its exit status and its signals."""
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    args, env = prepare_simple_launcher_cmd_env(options)
    sys.stdout.flush()
    os.execvpe(args[0], args, env)
