"""What several targets share: a form as one target sees it, the papers beside a policy, and trying the domain."""
