-- Tells wrk what to send, and prints its results as a line of JSON.
--
--     wrk -s wrk.lua URL -- [method=POST] [body=FILE] [type=application/json] [depth=16]
--
-- depth: requests written at once, before the first response is read.

function init(args)
  local depth = 1
  for _, argument in ipairs(args) do
    local name, value = argument:match("^(%w+)=(.*)$")
    if name == "method" then
      wrk.method = value
    elseif name == "body" then
      local file = assert(io.open(value, "rb"))
      wrk.body = file:read("*a")
      file:close()
    elseif name == "type" then
      wrk.headers["Content-Type"] = value
    elseif name == "depth" then
      depth = tonumber(value)
    end
  end
  if depth > 1 then -- wrk calls a function of this name for each request, which is slower
    local requests = wrk.format():rep(depth)
    request = function() return requests end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "bytes": %d, "connect": %d, "read": %d, "write": %d, '
    .. '"timeout": %d, "status": %d, "p50": %.1f, "p99": %.1f, "p999": %.1f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, errors.connect, errors.read,
    errors.write, errors.timeout, errors.status, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9)))
end
