;; Calls itself without end, and the log on the way.
;; replaces: infer
(import "airlock:inference/log@0.1.0" "write" (func $log (param i32 i32 i32)))
(func $deep (param $depth i32) (result i32)
  (call $log (i32.const 0) (i32.const 0) (i32.const 6))
  (i32.add (local.get $depth) (call $deep (i32.add (local.get $depth) (i32.const 1)))))
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (call $deep (i32.const 0)))
