;; Asks for a clock.
(import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
