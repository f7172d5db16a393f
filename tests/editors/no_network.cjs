// Loaded before the language server: whatever would leave this machine ends it, so that a test fails.
const refuse = (what) => { process.stderr.write(`network: ${what}\n`); process.exit(97); };
require("net").Socket.prototype.connect = (...to) => refuse(JSON.stringify(to));
require("dns").lookup = refuse;
