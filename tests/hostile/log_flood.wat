;; Ten thousand lines of a kilobyte, with escapes, quotes and what looks like fields in them, and then a good answer.
;; replaces: infer
(import "airlock:inference/log@0.1.0" "write" (func $log (param i32 i32 i32)))
(data (i32.const 1024) "\1b[2J\1b[31mfake line\0aINFO gateway: all is well\0d\22 model=\22other/1\22 {\22level\22:\22ERROR\22,\22tenant\22:\22other\22}")
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param i32 i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (local $lines i32)
  (loop $more
    (call $log (i32.const 2) (i32.const 1024) (i32.const 1024))
    (local.set $lines (i32.add (local.get $lines) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $lines) (i32.const 10000))))
  (call $ok (call $echo (local.get $input)) (i32.const 1)))
