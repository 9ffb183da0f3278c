;; A thousand outputs, each with the same ten thousand parameters.
;; replaces: memory infer
(memory (export "memory") 16)
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $at i32)
  (loop $more
    (drop (call $tensor (i32.add (i32.const 0x10000) (local.get $at)) (i32.const 16) (i32.const 7) (local.get $input)))
    (i32.store offset=20 (i32.add (i32.const 0x10000) (local.get $at)) (i32.const 0x40000))
    (i32.store offset=24 (i32.add (i32.const 0x10000) (local.get $at)) (i32.const 10000))
    (local.set $at (i32.add (local.get $at) (i32.const 36)))
    (br_if $more (i32.lt_u (local.get $at) (i32.const 36000))))
  (call $ok (i32.const 0x10000) (i32.const 1000)))
