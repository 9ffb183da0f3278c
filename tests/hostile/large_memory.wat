;; Begins with more memory than a request may use.
;; replaces: memory
(memory (export "memory") 2000)
