;; One memory more than it may have.
(memory 1)
