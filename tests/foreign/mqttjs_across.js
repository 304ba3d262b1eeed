// mqtt.js across two proxies: everything published at the first arrives at the second.
//
// Usage: node mqttjs_across.js PORT PORT, with mqtt in NODE_PATH. Exits with 0 and prints "ok" when it
// did, for MQTT 3.1.1 and 5.0.

"use strict";

const assert = require("node:assert/strict");
const mqtt = require("mqtt");

const DEADLINE_MILLIS = 10_000;

/** What `promise` gives, unless it takes too long. */
function soon(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in time: ${what}`)), DEADLINE_MILLIS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A connected client whose messages wait to be taken. */
class Client {
  static async connect(port, protocolVersion, options = {}) {
    const url = `mqtt://127.0.0.1:${port}`;
    const connected = mqtt.connectAsync(url, { protocolVersion, reconnectPeriod: 0, ...options });
    return new Client(await soon(connected, "CONNACK"));
  }

  constructor(client) {
    this.client = client;
    this.messages = [];
    this.takers = [];
    client.on("message", (topic, payload, packet) => {
      const taker = this.takers.shift();
      if (taker) taker(packet);
      else this.messages.push(packet);
    });
  }

  async subscribe(topic, qos) {
    const [granted] = await soon(this.client.subscribeAsync(topic, { qos }), "SUBACK");
    assert.equal(granted.qos, qos);
  }

  publish(topic, payload, options) {
    return soon(this.client.publishAsync(topic, payload, options), `publish to ${topic}`);
  }

  next() {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return soon(new Promise((resolve) => this.takers.push(resolve)), "a message");
  }

  async expect(payload) {
    const packet = await this.next();
    assert.equal(packet.payload.toString(), payload);
    return packet;
  }

  async close() {
    await soon(this.client.endAsync(), "the end");
    assert.deepEqual(this.messages, [], "more messages than were published");
  }
}

async function run(version, near, far) {
  const base = `mqttjs/${version}`;
  const subscriber = await Client.connect(far, version);
  await subscriber.subscribe(`${base}/+`, 2);
  const publisher = await Client.connect(near, version);
  for (const qos of [0, 1, 2]) {
    await publisher.publish(`${base}/${qos}`, `at ${qos}`, { qos });
    const packet = await subscriber.expect(`at ${qos}`);
    assert.deepEqual([packet.topic, packet.qos], [`${base}/${qos}`, qos]);
  }

  const publishes = [];
  for (let number = 0; number < 200; number += 1) {
    publishes.push(publisher.publish(`${base}/order`, String(number), { qos: 1 + (number % 2) }));
  }
  await Promise.all(publishes);
  const seen = { 1: [], 2: [] };
  for (let number = 0; number < 200; number += 1) {
    const packet = await subscriber.next();
    seen[packet.qos].push(Number(packet.payload));
  }
  for (const qos of [1, 2]) {
    const expected = Array.from({ length: 100 }, (_, index) => 2 * index + qos - 1);
    assert.deepEqual(seen[qos], expected, `QoS ${qos} out of order, lost or repeated`);
  }

  if (version === 5) {
    const properties = {
      contentType: "text/plain",
      responseTopic: "answers",
      correlationData: Buffer.from([0, 255]),
      userProperties: { name: ["one", "two"] },
    };
    await publisher.publish(`${base}/properties`, "with", { qos: 1, properties });
    const got = (await subscriber.expect("with")).properties;
    assert.equal(got.contentType, properties.contentType);
    assert.equal(got.responseTopic, properties.responseTopic);
    assert.deepEqual(Buffer.from(got.correlationData), properties.correlationData);
    assert.deepEqual([...got.userProperties.name], properties.userProperties.name);
  }

  await publisher.publish(`${base}/kept/x`, "value", { qos: 1, retain: true });
  const late = await Client.connect(far, version);
  await late.subscribe(`${base}/kept/#`, 1);
  assert.equal((await late.expect("value")).retain, true);
  await publisher.publish(`${base}/kept/x`, "", { qos: 1, retain: true });
  await late.expect("");
  await late.close();

  const will = { topic: `${base}/will`, payload: Buffer.from("gone"), qos: 1, retain: false };
  const dying = await Client.connect(near, version, { will });
  dying.client.stream.destroy();
  await subscriber.expect("gone");
  await publisher.close();
  await subscriber.close();
}

async function main() {
  const [near, far] = process.argv.slice(2).map(Number);
  for (const version of [4, 5]) await run(version, near, far);
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
