;; Emits its input again and again.
;; replaces: infer
(import "airlock:inference/responses@0.1.0" "emit" (func $emit (param i32 i32 i32 i32)))
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (drop (call $echo (local.get $input)))
  (loop $again
    (call $emit (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1))
    (br $again))
  (unreachable))
