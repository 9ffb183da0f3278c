;; Refuses its caller's input, as a good model may.
;; replaces: infer
(data (i32.const 1024) "INPUT0: too few elements")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (call $err (i32.const 0) (i32.const 1024) (i32.const 24)))
