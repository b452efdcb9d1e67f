"""Reports: runs of `cmkd.results` -> `Evidence` -> `ArmResult` -> `Table` -> `Page` -> a writer."""
