;; The answer lies where no answer can lie.
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (i32.const 257))
