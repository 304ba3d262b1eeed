"""paho-mqtt across two proxies: everything published at the first arrives at the second.

Usage: paho_across.py PORT PORT. Exits with 0 and prints "ok" when it did, for MQTT 3.1.1 and 5.0.
"""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEADLINE_SECS = 10


class Client:
    """A connected client whose callbacks become values to wait for."""

    def __init__(self, port, version, will=None):
        self.messages = queue.Queue()
        self.subscribed = queue.Queue()
        connected = queue.Queue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=version)
        self.client.on_connect = lambda _c, _u, _f, reason, _p: connected.put(reason)
        self.client.on_subscribe = lambda _c, _u, _m, reasons, _p: self.subscribed.put(reasons)
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        if will:
            self.client.will_set(will, "gone", qos=1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        reason = connected.get(timeout=DEADLINE_SECS)
        assert reason == 0, f"refused: {reason}"

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos)
        reasons = self.subscribed.get(timeout=DEADLINE_SECS)
        assert [reason.value for reason in reasons] == [qos], reasons

    def publish(self, topic, payload, **options):
        sent = self.client.publish(topic, payload, **options)
        sent.wait_for_publish(DEADLINE_SECS)
        assert sent.is_published(), f"no acknowledgement for {topic}"

    def expect(self, payload):
        message = self.messages.get(timeout=DEADLINE_SECS)
        assert message.payload == payload, f"expected {payload}, got {message.payload}"
        return message

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()
        assert self.messages.empty(), "more messages than were published"

    def vanish(self):
        """Ends the connection without DISCONNECT."""
        self.client.loop_stop()
        self.client.socket().close()


def run(version, near, far):
    base = f"paho/{version}"
    subscriber = Client(far, version)
    subscriber.subscribe(f"{base}/+", 2)
    publisher = Client(near, version)
    for qos in (0, 1, 2):
        publisher.publish(f"{base}/{qos}", f"at {qos}", qos=qos)
        message = subscriber.expect(f"at {qos}".encode())
        assert (message.topic, message.qos) == (f"{base}/{qos}", qos), message
    for number in range(200):
        publisher.client.publish(f"{base}/order", str(number), qos=number % 3 and 2)
    seen = [subscriber.messages.get(timeout=DEADLINE_SECS).payload for _ in range(200)]
    for level in (lambda n: n % 3, lambda n: n % 3 == 0):
        order = [int(payload) for payload in seen if level(int(payload))]
        assert order == sorted(order), "out of order"
    assert len(set(seen)) == 200, "some came twice"

    if version == mqtt.MQTTv5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "text/plain"
        properties.UserProperty = [("b", "1"), ("a", "2")]
        publisher.publish(f"{base}/properties", "with", qos=1, properties=properties)
        got = subscriber.expect(b"with").properties
        assert got.ContentType == "text/plain", got
        assert got.UserProperty == [("b", "1"), ("a", "2")], got

    publisher.publish(f"{base}/kept/x", "value", qos=1, retain=True)
    late = Client(far, version)
    late.subscribe(f"{base}/kept/#", 1)
    assert late.expect(b"value").retain
    publisher.publish(f"{base}/kept/x", "", qos=1, retain=True)
    late.expect(b"")
    late.close()

    Client(near, version, will=f"{base}/will").vanish()
    subscriber.expect(b"gone")
    publisher.close()
    subscriber.close()


def main():
    near, far = (int(port) for port in sys.argv[1:])
    for version in (mqtt.MQTTv311, mqtt.MQTTv5):
        run(version, near, far)
    print("ok")


if __name__ == "__main__":
    main()
