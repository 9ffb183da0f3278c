;; A line that lies beyond the memory.
;; replaces: infer
(import "airlock:inference/log@0.1.0" "write" (func $log (param i32 i32 i32)))
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (call $log (i32.const 2) (i32.const 0x7fff0000) (i32.const 64))
  (unreachable))
