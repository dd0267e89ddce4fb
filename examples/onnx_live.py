"""Convert a recording chunk by chunk with numpy and onnxruntime alone.

    python -m w2w.export --format onnx --chunk-ms 20 --voice her.wav --out live.onnx
    python examples/onnx_live.py live.onnx me.wav as_her.wav [SEMITONES]

The first command needs this package, the second one does not.
"""

import sys

import numpy as np
import onnxruntime
import soundfile

if len(sys.argv) not in (4, 5):
    sys.exit(print(__doc__))
model, source, out = sys.argv[1:4]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # one chunk is too little work to share
options.log_severity_level = 3  # it warns of inputs that have defaults, which are meant
try:
    session = onnxruntime.InferenceSession(model, options)
except Exception as error:  # onnxruntime's own, of many kinds
    sys.exit(f"{model} is no exported step ({str(error).splitlines()[0]}): make it by python -m w2w.export")
told = session.get_modelmeta().custom_metadata_map
if "chunk_samples" not in told:
    sys.exit(f"{model} is another kind of model: make it by python -m w2w.export --format onnx")
rate, size, lag = (int(told[name]) for name in ("sample_rate", "chunk_samples", "look_ahead"))
names = [output.name for output in session.get_outputs()]

try:
    wave, source_rate = soundfile.read(source, dtype="float32", always_2d=True)
except (OSError, RuntimeError) as error:
    sys.exit(f"{source} cannot be read: {error}")
if source_rate != rate:
    sys.exit(f"{source} is at {source_rate} Hz: resample it to {rate} Hz first")
wave = wave.mean(axis=1)
# Silence after the end brings the last samples out.
padded = np.pad(wave, (0, lag + -(len(wave) + lag) % size))

try:
    feeds = {"semitones": np.array([float(sys.argv[4]) if len(sys.argv) > 4 else 0.0])}
except ValueError:
    sys.exit(f"{sys.argv[4]!r} is no number of semitones")
converted = []
for chunk in padded.reshape(-1, 1, 1, size):
    made = dict(zip(names, session.run(names, feeds | {"chunk": chunk})))
    converted.append(np.asarray(made.pop("wave"))[0, 0])
    feeds |= {name.replace("next_", "state_", 1): state for name, state in made.items()}
try:
    soundfile.write(out, np.concatenate(converted)[lag:][: len(wave)], rate)
except (OSError, RuntimeError, TypeError, ValueError) as error:
    sys.exit(f"{out} cannot be written: {error}")
print(f"{out}: {len(wave) / rate:.2f} s in chunks of {size} samples, late by {told['latency_ms']} ms")
