;; Reads more of a passive segment than there is of it.
;; replaces: infer
(data $passive "sixteen bytes ..")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (memory.init $passive (i32.const 65536) (i32.const 0) (i32.const 17))
  (unreachable))
