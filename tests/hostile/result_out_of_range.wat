;; An answer that is neither a response nor an error.
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (drop (call $ok (call $echo (local.get $input)) (i32.const 1)))
  (i32.store8 (i32.const 256) (i32.const 7))
  (i32.const 256))
