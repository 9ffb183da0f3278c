"""Runs cases against a gateway that is already up: one line a case, then `N passed, M failed`."""

import argparse
import sys
import time
import traceback


class Suite:
    """Cases in the order in which they were added; a case is a function that takes the gateway's `host:port`."""

    def __init__(self, title):
        self.title = title
        self.cases = []
        # `host:port` of the gateway's gRPC port, for the suites that call both.
        self.grpc_url = None
        # `host:port` of its metrics port.
        self.metrics_url = None
        # The certificate to trust, as a file, where the gateway speaks TLS.
        self.ca = None

    def case(self, name):
        """Adds the decorated function under that name."""

        def add(function):
            self.cases.append((name, function))
            return function

        return add

    def each(self, name, values):
        """Adds the decorated function once for each value, which it takes after the address."""

        def add(function):
            for value in values:
                label = value if isinstance(value, str) else value[0]
                self.cases.append((f"{name}: {label}", lambda url, value=value: function(url, value)))
            return function

        return add

    def main(self):
        parser = argparse.ArgumentParser(description=self.title)
        parser.add_argument("--url", default="127.0.0.1:8000", help="host:port of a gateway that serves the examples")
        parser.add_argument("--grpc-url", default="127.0.0.1:8001", help="host:port of the same gateway's gRPC port")
        parser.add_argument("--metrics-url", default="127.0.0.1:8002", help="host:port of its metrics port")
        parser.add_argument("--ca", help="speak TLS, and trust the certificate in this file")
        parser.add_argument("--only", default="", help="run only the cases whose name contains this")
        options = parser.parse_args()
        self.grpc_url, self.metrics_url, self.ca = options.grpc_url, options.metrics_url, options.ca
        passed, failed = 0, []
        for name, function in self.cases:
            if options.only not in name:
                continue
            started = time.monotonic()
            try:
                function(options.url)
            except Exception as error:
                failed.append(name)
                print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
                for line in traceback.format_exc().splitlines()[-4:-1]:
                    print(f"     {line.strip()}")
            else:
                passed += 1
                print(f"ok   {name} ({(time.monotonic() - started) * 1000:.0f} ms)", flush=True)
        for name in failed:
            print(f"failed: {name}")
        print(f"{passed} passed, {len(failed)} failed", flush=True)
        # No case at all is a mistake in the call, not a success.
        sys.exit(1 if failed or not passed else 0)


def same(got, expected, what="value"):
    """Fails unless the two are equal, and shows both."""
    if got != expected:
        raise AssertionError(f"{what}: expected {shorten(expected)}, got {shorten(got)}")


def contains(text, *words):
    """Fails unless every word is in the text."""
    for word in words:
        if word not in text:
            raise AssertionError(f"{word!r} is missing in {shorten(text)}")


def shorten(value, length=300):
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"
