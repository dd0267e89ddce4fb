"""Sound cards by PortAudio: which there are, at which rate they run, and what is wrong in one sentence."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from engine.user_error import UserError

Device = int | str | None
Way = Literal["input", "output"]
USUAL_RATES = (48_000, 44_100, 32_000, 16_000)
NO_CARD = "use --input-file and --output-file to run without a sound card"


@dataclass(frozen=True, kw_only=True)
class DeviceEnd:
    """One end of the live path, as PortAudio is to open it."""

    number: int
    name: str
    channels: int
    """Opened: one to hear, two to speak where there are two."""
    rate: int
    """Hz: the device's own, until ``at_rates`` has chosen."""


def sound_library() -> Any:
    """The sounddevice package."""
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise UserError(
            f"a sound card is reached by sounddevice: pip install 'timbre[live]', or {NO_CARD}"
        ) from None
    except OSError as error:
        raise UserError(
            f"sounddevice cannot load PortAudio ({error}): install it (Debian: apt install libportaudio2),"
            f" or {NO_CARD}"
        ) from None
    except Exception as error:  # its own PortAudioError, which without the import has no name
        raise UserError(f"PortAudio does not start ({reason(error)}): {NO_CARD}") from None
    return sounddevice


def reason(error: BaseException) -> str:
    """PortAudio's words without its numbers and without a full stop."""
    words = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(words.split()).rstrip(".") or type(error).__name__


def listed(sound: Any) -> str:
    """All devices, the usual ones marked, one a line."""
    devices = list(sound.query_devices())
    if not devices:
        raise UserError(f"no sound card was found: {NO_CARD}")
    usual_in, usual_out = sound.default.device
    lines = ["  #  in out   rate  name   (> usual input, < usual output)"]
    for number, device in enumerate(devices):
        mark = (">" if number == usual_in else " ") + ("<" if number == usual_out else " ")
        channels = f"{device['max_input_channels']:3d} {device['max_output_channels']:3d}"
        lines.append(f"{mark}{number:2d} {channels} {device['default_samplerate']:6.0f}  {device['name']}")
    return "\n".join(lines)


def named(word: str | None) -> Device:
    """A device as the command line names it: by number, or by a part of its name."""
    return int(word) if word is not None and word.isdecimal() else word


def device_end(sound: Any, device: Device, way: Way) -> DeviceEnd:
    """Look a device up."""
    end = f"the usual {way} device" if device is None else f"--{way}-device {device}"
    if not len(sound.query_devices()):
        raise UserError(f"no sound card was found: {NO_CARD}")
    try:
        about = sound.query_devices(device, way)
    except (ValueError, sound.PortAudioError) as error:
        if device is None:
            raise UserError(
                f"there is no usual {way} device: name one by --{way}-device (--list-devices shows them)"
            ) from None
        raise UserError(f"{end}: {reason(error)}; --list-devices shows what there is") from None
    most = about[f"max_{way}_channels"]
    if most < 1:
        raise UserError(
            f"{end}: {about['name']} has no {way} channels; name another by --{way}-device"
            " (--list-devices shows which have)"
        )
    rate = round(about["default_samplerate"])
    # Some cards play a mono stream on the left side only.
    channels = 1 if way == "input" else min(most, 2)
    return DeviceEnd(number=about["index"], name=about["name"], channels=channels, rate=rate)


def at_rates(sound: Any, source: DeviceEnd, sink: DeviceEnd, rate: int | None) -> tuple[DeviceEnd, DeviceEnd]:
    """Both ends at the rates they are to be opened at.

    The one asked for, or the first of their own and usual ones that both take; where there is none, each at
    one that it takes.
    """
    wanted = list(dict.fromkeys((rate,) if rate else (source.rate, sink.rate, *USUAL_RATES)))
    on_input = {rate: _refusal(sound, "input", source, rate) for rate in wanted}
    on_output = {rate: _refusal(sound, "output", sink, rate) for rate in wanted}
    of_input = [rate for rate in wanted if on_input[rate] is None]
    of_output = [rate for rate in wanted if on_output[rate] is None]
    if not of_input or not of_output:
        way_out = "leave --rate out" if rate else "choose others by --input-device and --output-device"
        raise UserError(f"{(on_output if of_input else on_input)[wanted[0]]}: {way_out}")
    common = [rate for rate in of_input if rate in of_output]
    return replace(source, rate=(common or of_input)[0]), replace(sink, rate=(common or of_output)[0])


def _refusal(sound: Any, way: Way, end: DeviceEnd, rate: int) -> str | None:
    check = sound.check_input_settings if way == "input" else sound.check_output_settings
    try:
        check(device=end.number, channels=end.channels, dtype="float32", samplerate=rate)
    except (ValueError, sound.PortAudioError) as error:
        return f"{way} device {end.number} ({end.name}) refuses {rate} Hz ({reason(error)})"
    return None
