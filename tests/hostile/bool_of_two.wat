;; A parameter that is a truth value of 2: by the interface, what is not 0 is true.
;; replaces: infer
(data (i32.const 1024) "\00\00\00\00\06\00\00\00\00\00\00\00\00\00\00\00\02")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (drop (call $ok (call $echo (local.get $input)) (i32.const 1)))
  (i32.store offset=4 (i32.const 256) (i32.const 1024))
  (i32.store offset=8 (i32.const 256) (i32.const 1))
  (i32.const 256))
