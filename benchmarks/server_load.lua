-- Requests for wrk: random lines of a file, each a path and a body, with random pauses between them.
-- wrk ... URL -- FILE MEAN_PAUSE_MS

local requests, pause = {}, 0

function init(arguments)
  for line in io.lines(arguments[1]) do
    local path, body = line:match("^(.-)\t(.*)$")
    requests[#requests + 1] = wrk.format("POST", path, {["Content-Type"] = "application/json"}, body)
  end
  pause = tonumber(arguments[2])
  math.randomseed(os.time())
end

function request()
  return requests[math.random(#requests)]
end

function delay()
  if pause == 0 then return 0 end
  return math.floor(-math.log(1 - math.random()) * pause)  -- as independent clients come
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "refused": %d, "broken": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
