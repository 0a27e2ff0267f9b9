"""The target ``intel-ita``: appraisal policies for Intel Trust Authority."""
