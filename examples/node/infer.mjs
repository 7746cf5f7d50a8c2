// A variant of a bundle run without any code of edge-sft: model.onnx in, the same decisions out.
//
//   python ../python/unpack.py solar-cells-0.1.0.edge default.pub.pem out/
//   node infer.mjs out/
//
// Everything after the picture's geometry is inside the graph: uint8 RGB in, probabilities out.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";

const ARRAYS = { uint8: Uint8Array, float32: Float32Array };

const folder = process.argv[2];
if (!folder) {
  console.error("usage: node infer.mjs FOLDER   (made by examples/python/unpack.py)");
  process.exit(2);
}
const golden = JSON.parse(readFileSync(join(folder, "golden.json"), "utf8"));
const policy = JSON.parse(readFileSync(join(folder, "policy.json"), "utf8"));

function load({ dtype, file }) {
  const bytes = readFileSync(join(folder, file));
  return new ARRAYS[dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

// How outputs become a decision: the evidence for a defect is what the good labels leave over.
function decide(probabilities) {
  if (!probabilities.every(Number.isFinite)) return { verdict: "no_decision" };
  const good = policy.labels.map((label) => policy.ok_labels.includes(label));
  const score = Math.min(1, Math.max(0, 1 - probabilities.reduce((sum, p, i) => sum + (good[i] ? p : 0), 0)));
  const confidence = Math.max(...probabilities);
  const label = policy.labels[probabilities.indexOf(confidence)];
  const unsure =
    (policy.uncertain_low != null && score >= policy.uncertain_low && score < policy.uncertain_high) ||
    confidence < policy.min_confidence;
  const sorting = good.every(Boolean);
  return { verdict: unsure ? "uncertain" : !sorting && score >= policy.threshold ? "nok" : "ok", label, score };
}

const session = await ort.InferenceSession.create(join(folder, "model.onnx"));
const feeds = {};
for (const [name, tensor] of Object.entries(golden.inputs)) {
  feeds[name] = new ort.Tensor(tensor.dtype, load(tensor), tensor.shape);
}
const results = await session.run(feeds);

let largest = 0;
let equal = true;
for (const [name, tensor] of Object.entries(golden.outputs)) {
  const expected = load(tensor);
  const got = results[name].data;
  if (got.length !== expected.length) throw new Error(`${name}: ${got.length} numbers, ${expected.length} expected`);
  for (let i = 0; i < got.length; i++) {
    const difference = Math.abs(got[i] - expected[i]);
    if (difference > largest) largest = difference;
    if (!(difference <= golden.tolerance)) equal = false; // written so that NaN does not pass
  }
}

const [pictures, labels] = results.probabilities.dims.map(Number);
const decisions = [];
for (let i = 0; i < pictures; i++) {
  decisions.push(decide(Array.from(results.probabilities.data.slice(i * labels, (i + 1) * labels))));
}
console.log(JSON.stringify({ pictures, largest_difference: largest, tolerance: golden.tolerance, equal, decisions }));
process.exit(equal ? 0 : 1);
