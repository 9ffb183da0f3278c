;; A text of 512 KiB, which begins with a colour and a line of its own.
;; replaces: memory infer
(memory (export "memory") 16)
(data (i32.const 65536) "\1b[31mroot\0aroot")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (memory.fill (i32.const 65550) (i32.const 65) (i32.const 0x80000))
  (call $err (i32.const 1) (i32.const 65536) (i32.const 0x80000)))
