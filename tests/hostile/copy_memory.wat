;; Copies half of all the memory it may have onto the other half, again and again.
;; replaces: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $half i32)
  (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16)))))
  (local.set $half (i32.shl (memory.size) (i32.const 15)))
  (loop $for_ever
    (memory.copy (local.get $half) (i32.const 0) (local.get $half))
    (br $for_ever))
  (unreachable))
