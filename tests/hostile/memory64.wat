;; A 64-bit memory.
;; replaces: memory data heap realloc signature load answer infer
(memory (export "memory") i64 1)
