;; A tensor of 32 MiB, all of it within its memory.
;; replaces: memory infer
(memory (export "memory") 516)
(data (i32.const 1024) "\00\00\80\00\00\00\00\00")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $output i32)
  (local.set $output (call $echo (local.get $input)))
  (i32.store offset=12 (local.get $output) (i32.const 1024))
  (i32.store offset=28 (local.get $output) (i32.const 65536))
  (i32.store offset=32 (local.get $output) (i32.const 0x2000000))
  (call $ok (local.get $output) (i32.const 1)))
