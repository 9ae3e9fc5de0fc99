// The tiny models, run by onnxruntime-web in this page: WebAssembly, one thread, no server.

import { Reading } from "./reading.js";

const here = new URL(".", import.meta.url);
const runtime = new URL("../vendor/onnxruntime/", here);

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return answer;
}

export async function gallery() {
  return (await fetched(new URL("gallery.json", here))).json();
}

export class Models {
  constructor(gallery) {
    this.gallery = gallery;
    this.reading = new Reading(gallery);
    this.loading = new Map();
    this.turn = Promise.resolve(); // one pass at a time
  }

  async start() {
    this.ort ??= import(new URL("ort.wasm.bundle.min.mjs", runtime)).then((ort) => {
      ort.env.wasm.numThreads = 1; // more would need headers that a plain file server does not send
      ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", runtime).href };
      return ort;
    });
    return this.ort;
  }

  // A model and the image features of all pairs, fetched once.
  load(name) {
    if (!this.loading.has(name)) {
      this.loading.set(name, this.fetch(name));
      this.loading.get(name).catch(() => this.loading.delete(name)); // may be asked for again
    }
    return this.loading.get(name);
  }

  async fetch(name) {
    const { file, features, width } = this.gallery.models[name];
    const ort = await this.start();
    const [weights, seen] = await Promise.all(
      [file, features].map(async (path) => (await fetched(new URL(path, here))).arrayBuffer()));
    const session = await ort.InferenceSession.create(new Uint8Array(weights), { executionProviders: ["wasm"] });
    return { session, features: new Float32Array(seen), width };
  }

  // Logits of the token after the chat about a pair and the tokens `after`. Picture 0: the images as they are; 1: with
  // their backgrounds exchanged.
  async logits(name, b, picture, after) {
    const model = await this.load(name);
    const ort = await this.start();
    const { ids, positions, shift } = this.gallery.pairs[b].prefix;
    const length = ids.length + after.length;
    const later = after.map((_, i) => ids.length + i + shift);
    const rows = model.features.length / (this.gallery.pairs.length * this.gallery.pictures.length);
    const start = (b * this.gallery.pictures.length + picture) * rows;
    const tensor = (type, values, dims) => new ort.Tensor(type, values, dims);
    const inputs = {
      input_ids: tensor("int32", Int32Array.from([...ids, ...after]), [1, length]),
      position_ids: tensor("int32", Int32Array.from(positions.flatMap((row) => [...row, ...later])), [3, 1, length]),
      image_features: tensor("float32", model.features.slice(start, start + rows), [rows / model.width, model.width]),
    };
    const mine = this.turn.then(() => model.session.run(inputs));
    this.turn = mine.catch(() => {});
    return Array.from((await mine).logits.data);
  }

  // What a listener believes after a trace: { p, one, two }.
  async listen(name, b, picture, trace) {
    return this.reading.p(await this.logits(name, b, picture, this.reading.listened(trace)));
  }

  // A reasoner's completion; `said` is called with the text so far and may return false to stop.
  async think(name, b, picture, random = null, said = () => true) {
    const { stop, max_new_tokens } = this.gallery;
    const ids = [];
    while (ids.length < max_new_tokens) {
      const id = this.reading.next(await this.logits(name, b, picture, ids), random);
      if (id === stop) break;
      ids.push(id);
      if ((await said(this.reading.text(ids))) === false) break;
    }
    return this.reading.text(ids);
  }
}
