;; A name that is not text.
;; replaces: infer
(data (i32.const 1024) "\ff\fe\fd")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (call $ok (call $tensor (i32.const 512) (i32.const 1024) (i32.const 3) (local.get $input)) (i32.const 1)))
