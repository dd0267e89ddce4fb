(text) => text.split(";").forEach((chunk) => {
  // Chunks, separated by semicolons, are a number, a rate and 16-bit samples in base64. They are scheduled end to
  // end on the audio clock; after a gap the buffer is filled again. A busy browser may skip a message: each
  // repeats the previous chunks, and those already played are ignored.
  const [number, rate, data] = chunk.split(" ");
  if (!rate) return;
  if (!window.liveSpeech || window.liveSpeech.rate !== rate) {
    const context = new AudioContext({sampleRate: +rate});
    window.liveSpeech = {rate, context, until: 0, samples: 0, holes: -1, number: 0, buffer_s: BUFFER};
  }
  const live = window.liveSpeech;
  if (!data || +number <= live.number) return;
  live.number = +number;
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const samples = new Int16Array(bytes.buffer);
  const buffer = live.context.createBuffer(1, samples.length, +rate);
  buffer.copyToChannel(Float32Array.from(samples, (s) => s / 32768), 0);
  const source = live.context.createBufferSource(), now = live.context.currentTime;
  if (live.until < now) {
    live.until = now + live.buffer_s;
    // The buffer grows by half at every gap, up to .6 s: the machine is busy, or the network is slow.
    if ((live.holes += 1) > 0) live.buffer_s = Math.min(1.5 * live.buffer_s, 0.6);
  }
  source.buffer = buffer;
  source.connect(live.context.destination);
  source.start(live.until);
  live.until += buffer.duration;
  live.samples += samples.length;
  live.context.resume();
})
