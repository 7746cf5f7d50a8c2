// Decisions from MQTT, in Node.js: subscribe, check each message against the published schema, act on it.
//
//   edge-sft schema --out schema.json
//   node consumer.mjs --url mqtt://127.0.0.1:1883 --schema schema.json [--count 10]
//
// Options: --topic (default edge-sft/v1/+/+/+/+/prediction), --username, --password-file.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import Ajv2020 from "ajv/dist/2020.js";
import mqtt from "mqtt";

const { values: options } = parseArgs({
  options: {
    url: { type: "string", default: "mqtt://127.0.0.1:1883" },
    topic: { type: "string", default: "edge-sft/v1/+/+/+/+/prediction" },
    schema: { type: "string", default: fileURLToPath(new URL("../../docs/prediction-schema.json", import.meta.url)) },
    count: { type: "string", default: "0" },
    username: { type: "string" },
    "password-file": { type: "string" },
  },
});

const validate = new Ajv2020({ strict: false }).compile(JSON.parse(readFileSync(options.schema, "utf8")));
const seen = new Set(); // (stream, epoch, seq): QoS 1 delivers at least once, so the same message may come twice
let shown = 0;

const client = mqtt.connect(options.url, {
  username: options.username,
  password: options["password-file"] && readFileSync(options["password-file"], "utf8").trim(),
});
client.on("connect", () => client.subscribe(options.topic, { qos: 1 }, () => console.error(`listening: ${options.topic}`)));
client.on("error", (error) => console.error(`${options.url}: ${error.message}`)); // it reconnects by itself

client.on("message", (topic, payload) => {
  const envelope = parse(payload);
  if (!envelope) return console.log(`refused  ${topic}: not an envelope of edge-sft v1`);
  const identity = `${envelope.stream}|${envelope.epoch}|${envelope.seq}`;
  if (seen.has(identity)) return;
  seen.add(identity);
  if (seen.size > 100_000) seen.delete(seen.values().next().value); // the oldest goes first
  console.log(describe(envelope));
  // Not at once: the broker is still owed the acknowledgement of this very message.
  if (++shown === Number(options.count)) setTimeout(() => client.end(false, {}, () => process.exit(0)), 50);
});

function parse(payload) {
  try {
    const message = JSON.parse(payload.toString("utf8"));
    return validate(message) ? message : null;
  } catch {
    return null;
  }
}

function describe({ stream, seq, backfill, prediction, dropped }) {
  if (dropped) return `lost     ${stream} ${dropped.first_seq}…${dropped.last_seq}: ${dropped.reason}`;
  const { verdict, label, score, part_id: part, reason, captured_at: at } = prediction;
  const detail = verdict === "no_decision" ? reason : `${label} (evidence for a defect ${score.toFixed(3)})`;
  return `${verdict.padEnd(8)} ${stream} #${seq} part ${part ?? "–"} ${detail} ${at}${backfill ? " late" : ""}`;
}
