"""The target ``trustee``: appraisal policies and Reference Values for confidential-containers/trustee."""
