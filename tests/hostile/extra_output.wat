;; An output that the signature does not announce.
;; replaces: infer
(data (i32.const 1024) "EXTRA")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (drop (call $echo (local.get $input)))
  (drop (call $tensor (i32.const 548) (i32.const 1024) (i32.const 5) (local.get $input)))
  (call $ok (i32.const 512) (i32.const 2)))
