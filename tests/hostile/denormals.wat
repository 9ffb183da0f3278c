;; Computes with numbers so small that processors are slow at it, without end.
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $sum f64)
  (local.set $sum (f64.const 0x1p-1070))
  (loop $for_ever
    (local.set $sum (f64.add (f64.mul (local.get $sum) (f64.const 0.5)) (f64.const 0x1p-1071)))
    (br $for_ever))
  (unreachable))
