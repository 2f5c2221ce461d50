--- What --profile writes: stacks, as the program has counted them (host/program/profile.c), become
-- folded stacks or a flame graph. Runs in a state of its own, so it requires nothing.

local flame = {}

local OURS, WIDTH, ROW, TOP, CHAR = "tidepool", 1200, 18, 40, 6.7
local LEAST = 0.05 -- a frame that is narrower, in pixels, is not drawn

-- A frame as it comes: its name, "\1", and where it is: nothing for our own, "C" for a function in
-- C, "FILE:LINE" for others. "F": no frame, but the name of the Function whose input is run.
local FRAME = "^(.-)\1(.*)$"

--- The lines as stacks of frames. Frames are { name, place }, but for the first, which is a word.
local function parse(lines)
  local stacks = {}
  for text, count in lines:gmatch "([^\n]+) (%d+)\n" do
    local frames = {}
    for frame in text:gmatch "[^;]+" do
      local name, place = frame:match(FRAME)
      frames[#frames + 1] = name and { name = name, place = place } or frame
    end
    stacks[#stacks + 1] = { frames = frames, count = tonumber(count) }
  end
  return stacks
end

--- A function has one name, however it is called: the one under which it was seen most.
local function names_of(stacks)
  local seen, names, most = {}, {}, {}
  for _, stack in ipairs(stacks) do
    for _, frame in ipairs(stack.frames) do
      local place, name = frame.place, frame.name
      if place and #place > 1 and name ~= "" then
        local key = place .. "\1" .. name
        seen[key] = (seen[key] or 0) + stack.count
        if seen[key] > (most[place] or 0) then
          names[place], most[place] = name, seen[key]
        end
      end
    end
  end
  return names
end

--- What is shown for a frame; nil for nothing.
local function label(frame, names)
  local place = frame.place
  if place == "" then return OURS end
  if place == "F" then return frame.name end
  if place == "C" then return frame.name ~= "" and "[" .. frame.name .. "]" or nil end
  local file = place:match "^(.*):0$" -- the main chunk of a file
  return file or (names[place] and ("%s (%s)"):format(names[place], place) or place)
end

--- The labels of a stack: our frames, with those in C that they call, are one, and none where a
-- worker's code begins and users' code follows. The name of a Function is left out where the
-- function has the same.
local function labels(stack, names)
  local list, item = {}, nil
  for _, frame in ipairs(stack.frames) do
    local text = type(frame) == "string" and frame or label(frame, names)
    local is_hidden = list[#list] == OURS and (text == OURS or frame.place == "C")
    if text and not is_hidden then
      if #list == 2 and list[2] == OURS and list[1] == "workers" then list[2] = nil end
      if item and names[frame.place] == item then list[#list] = nil end
      item = frame.place == "F" and text or nil
      list[#list + 1] = text
    end
  end
  return list
end

--- Counts by the labels of their stacks, in the order of these.
local function fold(lines, missed)
  local stacks = parse(lines)
  local names, counts, list = names_of(stacks), {}, {}
  for _, stack in ipairs(stacks) do
    local key = table.concat(labels(stack, names), ";")
    if not counts[key] then list[#list + 1] = key end
    counts[key] = (counts[key] or 0) + stack.count
  end
  if missed > 0 then
    list[#list + 1] = "(too many stacks to tell apart)"
    counts[list[#list]] = missed
  end
  table.sort(list)
  return list, counts
end

local function folded(list, counts)
  local lines = {}
  for i, key in ipairs(list) do lines[i] = ("%s %d\n"):format(key, counts[key]) end
  return table.concat(lines)
end

--- The stacks as a tree: nodes have a label, a count, and those above them in the list's order.
local function tree(list, counts)
  local root = { label = "all", count = 0 }
  for _, key in ipairs(list) do
    local node = root
    node.count = node.count + counts[key]
    for text in key:gmatch "[^;]+" do
      local above = node[text]
      if not above then
        above = { label = text, count = 0 }
        node[text] = above
        node[#node + 1] = above
      end
      above.count = above.count + counts[key]
      node = above
    end
  end
  return root
end

local function depth(node)
  local most = 0
  for _, above in ipairs(node) do most = math.max(most, depth(above)) end
  return most + 1
end

--- Text for XML. Bytes that are no UTF-8 are "?", as are characters that XML does not have.
local function escape(text)
  local safe = {}
  local at = 1
  while at <= #text do
    local char = text:match("^[\32-\126]", at) or text:match("^[\194-\223][\128-\191]", at) or
      text:match("^[\224-\239][\128-\191][\128-\191]", at) or text:match("^[\240-\244][\128-\191][\128-\191][\128-\191]", at)
    safe[#safe + 1] = char or "?"
    at = at + #(char or "?")
  end
  return (table.concat(safe):gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

--- A colour that is the same for the same label: grey for ours and the roots, else warm.
local function colour(text, level)
  if level <= 1 or text == OURS then return "#c9ced6" end
  local hash = 7
  for i = 1, #text do hash = (hash * 31 + text:byte(i)) % 65521 end
  return ("hsl(%d,%d%%,%d%%)"):format(12 + hash % 40, 70 + hash % 23, 62 + hash % 11)
end

-- Without "<" and "&", so that it means the same in SVG and in HTML.
local script = [[
(function () {
  var all = Array.prototype.slice.call(document.querySelectorAll(".flame g"));
  var number = function (g, name) { return Number(g.getAttribute("data-" + name)); };
  var show = function (of) {
    var x0 = number(of, "x"), w0 = number(of, "w"), low = number(of, "d"), scale = WIDTH / w0;
    all.forEach(function (g) {
      var x = number(g, "x"), w = number(g, "w"), from = Math.max(x, x0), to = Math.min(x + w, x0 + w0);
      g.style.display = to - from > 1e-6 ? "" : "none";
      g.style.opacity = low > number(g, "d") ? 0.5 : 1;
      var left = (from - x0) * scale, wide = Math.max(0, (to - from) * scale);
      var rect = g.querySelector("rect"), text = g.querySelector("text");
      rect.setAttribute("x", left);
      rect.setAttribute("width", wide);
      text.setAttribute("x", left + 3);
      var room = Math.floor((wide - 6) / CHAR), label = g.getAttribute("data-t");
      text.textContent = label.length > room ? (room > 3 ? label.slice(0, room - 2) + ".." : "") : label;
    });
  };
  all.forEach(function (g) { g.addEventListener("click", function () { show(g); }); });
})();
]]

local style = [[
.flame { background: #fff; font: 11px monospace; }
.flame g { cursor: pointer; }
.flame g:hover rect { stroke: #000; }
.flame .head { font: 14px sans-serif; fill: #222; }
@media (prefers-color-scheme: dark) { .flame { background: #17191c; } .flame .head { fill: #ddd; } .flame g:hover rect { stroke: #fff; } }
]]

local function seconds(count)
  return count >= 1000 and ("%.2f s"):format(count / 1000) or ("%d ms"):format(count)
end

--- Draws the node and those above it.
local function draw(out, node, x, level, of)
  local width = node.count * of.scale
  if width < LEAST then return end
  local y = TOP + (of.depth - 1 - level) * ROW
  local room = math.floor((width - 6) / CHAR)
  local shown = #node.label <= room and node.label or room > 3 and node.label:sub(1, room - 2) .. ".." or ""
  out[#out + 1] = ('<g data-x="%.3f" data-w="%.3f" data-d="%d" data-t="%s"><title>%s: %s, %.1f %%</title>' ..
    '<rect x="%.3f" y="%d" width="%.3f" height="%d" rx="1" fill="%s"/><text x="%.3f" y="%d">%s</text></g>\n'):format(
    x, width, level, escape(node.label), escape(node.label), seconds(node.count), 100 * node.count / of.count,
    x, y, width, ROW - 1, colour(node.label, level), x + 3, y + 13, escape(shown))
  for _, above in ipairs(node) do
    draw(out, above, x, level + 1, of)
    x = x + above.count * of.scale
  end
end

local function svg(list, counts)
  local root = tree(list, counts)
  local of = { count = math.max(root.count, 1), scale = WIDTH / math.max(root.count, 1), depth = depth(root) }
  local height = TOP + of.depth * ROW + 8
  local out = {
    ('<svg class="flame" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="100%%">\n<style>%s</style>\n'):format(WIDTH, height, style),
    ('<text class="head" x="3" y="20">Lua code ran for %s of CPU time, in the script and all workers together. ' ..
      'Click on a frame to see it wide.</text>\n'):format(seconds(root.count)),
  }
  draw(out, root, 0, 0, of)
  out[#out + 1] = "<script>" .. script:gsub("WIDTH", WIDTH):gsub("CHAR", CHAR) .. "</script>\n</svg>\n"
  return table.concat(out)
end

local function html(list, counts)
  return '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">' ..
    "<title>Tidepool: profile</title>\n<style>html { color-scheme: light dark; } body { margin: 8px; }</style></head><body>\n" ..
    svg(list, counts) .. "</body></html>\n"
end

--- The text of the file: a flame graph for names that end in .svg or .html, else folded stacks.
---@param path string
---@param lines string  of stacks and their counts
---@param missed integer  counts whose stacks are not known
---@return string
function flame.render(path, lines, missed)
  local list, counts = fold(lines, missed)
  local draws = path:find "%.svg$" and svg or path:find "%.html?$" and html or folded
  return draws(list, counts)
end

return flame
