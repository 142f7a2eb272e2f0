SUMMARY = "The operator's command for a spacecloud chassis"
DESCRIPTION = "Applies apps, shows modules and instances, drains and explains."

require spacecloud.inc

CARGO_MEMBER = "cli"
