"""Options of ``accelerate config`` and ``accelerate launch``: applied to a trainer's config, or refused.

By default ``accelerate launch`` ends every failed program with a traceback and exit code 1. Where this
package is installed, ``launch.pth`` calls ``end_as_trainers_end`` in it, so that these trainers end as if run
without the launcher: with one sentence and exit code 2 for a user's mistake, and their own signal handling.
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
"""Environment variable with the options given to the launcher."""
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}


def adopt(config: C, args: Sequence[str]) -> C:
    """Apply the launcher's options to a trainer's ``config.loop``; ``args`` are the trainer's own options.

    Fields without a launcher option keep their value. Raises ``UserError`` if the options of trainer and
    launcher contradict each other, and for unsupported features of the launcher.
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
                f"{option} {getattr(loop, name)} contradicts accelerate, which was given {value}:"
                " leave one of them out"
            )
    return replace(config, loop=replace(loop, **wanted))  # pyright: ignore[reportArgumentType]


def launched_loop() -> dict[str, Any]:
    """Return the loop fields set by the launcher; empty if accelerate did not launch this process."""
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
        raise UserError(f"accelerate has mixed_precision {precision}: choose bf16, fp16 or no")
    # The launcher also passes on "no" if the option was not given.
    if precision != "no" or options.get("mixed_precision"):
        wanted["mixed_precision"] = precision
    if backend.lower() != "no" or options.get("dynamo_backend"):
        wanted["compile"] = backend.lower()
    count = env.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or options.get("gradient_accumulation_steps")
    if count:
        wanted["accumulate"] = int(count)
    return wanted


def launcher() -> Any:
    """Return the ``accelerate launch`` that started this process, a ``psutil.Process``, or None."""
    import psutil  # installed with accelerate, which is needed only for training

    try:
        parent = psutil.Process().parent()
        return parent if parent and _options(parent.cmdline()) is not None else None
    except psutil.Error:
        return None


def _launcher_options() -> dict[str, Any]:
    """Return the launcher's explicit options; its environment variables mix them with its defaults."""
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
    """Return the options in a launcher's command line; None if it belongs to another program."""
    for at, arg in enumerate(args[:4]):
        if Path(arg).name in ("accelerate-launch", "accelerate.commands.launch"):
            return list(args[at + 1 :])
        if Path(arg).name == "accelerate" and args[at + 1 : at + 2] == ["launch"]:
            return list(args[at + 2 :])
    return None


def end_as_trainers_end() -> None:
    """Make this ``accelerate launch`` process end as a trainer does if its script is in this package."""
    from accelerate.commands import launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    launch_any = launch.launch_command

    @exits_cleanly
    def launch_ours(options: Any) -> None:
        os.environ[WORDS] = shlex.join(_options(sys.argv) or [])
        launch.simple_launcher = _exec_trainer
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


def _exec_trainer(options: Any) -> None:
    """Replace this process by the trainer, so that its exit code and signals are the trainer's."""
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    args, env = prepare_simple_launcher_cmd_env(options)
    sys.stdout.flush()
    os.execvpe(args[0], args, env)
