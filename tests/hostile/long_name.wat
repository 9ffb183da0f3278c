;; An output whose name has 512 KiB and begins with a colour.
;; replaces: memory infer
(memory (export "memory") 16)
(data (i32.const 65536) "\1b[31m")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (memory.fill (i32.const 65541) (i32.const 65) (i32.const 0x80000))
  (drop (call $tensor (i32.const 512) (i32.const 65536) (i32.const 0x80000) (local.get $input)))
  (call $ok (i32.const 512) (i32.const 1)))
