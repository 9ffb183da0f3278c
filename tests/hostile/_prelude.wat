;; What every fixture is made of. A fixture's own text comes first; parts that its line `;; replaces: …` names are left out.
;; One input INPUT0 and one output OUTPUT0, both FP32 [-1]; `infer` echoes.

;; part: memory
(memory (export "memory") 2)

;; part: data
;; 0: names. 32: shape [-1]. 48: signature. 64: spec of the input. 96: spec of the output.
(data (i32.const 0) "INPUT0")
(data (i32.const 16) "OUTPUT0")
(data (i32.const 32) "\ff\ff\ff\ff\ff\ff\ff\ff")
(data (i32.const 48) "\40\00\00\00\01\00\00\00\60\00\00\00\01\00\00\00")
(data (i32.const 64) "\00\00\00\00\06\00\00\00\0b\00\00\00\20\00\00\00\01\00\00\00")
(data (i32.const 96) "\10\00\00\00\07\00\00\00\0b\00\00\00\20\00\00\00\01\00\00\00")

;; part: heap
(global $heap (mut i32) (i32.const 4096))
;; Bytes that never come back, as much memory as it takes. Traps if there is none.
(func $alloc (param $align i32) (param $size i32) (result i32)
  (local $ptr i32)
  (local.set $ptr
    (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
  (global.set $heap (i32.add (local.get $ptr) (local.get $size)))
  (block $fits
    (br_if $fits (i32.le_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))))
    (br_if $fits
      (i32.ne (i32.const -1)
        (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))))
    (unreachable))
  (local.get $ptr))

;; part: realloc
(func $realloc (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32)
  (result i32)
  (call $alloc (local.get $align) (local.get $size)))

;; part: signature
(func (export "airlock:inference/plugin@0.1.0#signature") (result i32) (i32.const 48))

;; part: load
(func (export "airlock:inference/plugin@0.1.0#load") (param i32 i32 i32 i32) (result i32)
  ;; 128: the answer `ok`, zeroes.
  (i32.const 128))

;; part: answer
;; Writes a tensor that holds the bytes of the first input's data, under the given name, and gives its address.
(func $tensor (param $at i32) (param $name i32) (param $name_len i32) (param $input i32) (result i32)
  (i32.store (local.get $at) (local.get $name))
  (i32.store offset=4 (local.get $at) (local.get $name_len))
  (i32.store8 offset=8 (local.get $at) (i32.const 11))
  (i64.store offset=12 align=4 (local.get $at) (i64.load offset=12 align=4 (local.get $input)))
  (i64.store offset=20 align=4 (local.get $at) (i64.const 0))
  (i64.store offset=28 align=4 (local.get $at) (i64.load offset=28 align=4 (local.get $input)))
  (local.get $at))
;; The answer `ok` with the given outputs and no parameters, at 256.
(func $ok (param $outputs i32) (param $count i32) (result i32)
  (i32.store (i32.const 256) (i32.const 0))
  (i64.store offset=4 align=4 (i32.const 256) (i64.const 0))
  (i32.store offset=12 (i32.const 256) (local.get $outputs))
  (i32.store offset=16 (i32.const 256) (local.get $count))
  (i32.const 256))
;; The error of the given kind (0: invalid-input, 1: failed) with the given text, at 256.
(func $err (param $kind i32) (param $text i32) (param $len i32) (result i32)
  (i32.store (i32.const 256) (i32.const 1))
  (i32.store offset=4 (i32.const 256) (local.get $kind))
  (i32.store offset=8 (i32.const 256) (local.get $text))
  (i32.store offset=12 (i32.const 256) (local.get $len))
  (i32.const 256))
;; OUTPUT0 as an echo of INPUT0, at 512.
(func $echo (param $input i32) (result i32)
  (call $tensor (i32.const 512) (i32.const 16) (i32.const 7) (local.get $input)))

;; part: infer
(func (export "airlock:inference/plugin@0.1.0#infer")
  (param $id i32) (param i32 i32) (param i32 i32) (param $input i32) (param i32) (param i32 i32) (result i32)
  (call $ok (call $echo (local.get $input)) (i32.const 1)))
