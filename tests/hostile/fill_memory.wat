;; Fills all the memory it may have, again and again: one instruction each time, which is not interrupted.
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16)))))
  (loop $for_ever
    (memory.fill (i32.const 65536) (i32.const 7)
      (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 65536)))
    (br $for_ever))
  (unreachable))
