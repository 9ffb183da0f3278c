;; A shared memory.
;; replaces: memory data heap realloc signature load answer infer
(memory (export "memory") 1 1 shared)
